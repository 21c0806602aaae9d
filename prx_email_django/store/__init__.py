"""The only writer of a message's status: each verb a conditional UPDATE whose row count is the answer."""
