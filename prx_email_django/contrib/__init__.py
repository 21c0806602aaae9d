"""Optional integrations: each module needs what it is named for, and is loaded only by who names it."""
