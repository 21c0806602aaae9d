"""The admin in the themes that people use; ``nox -s themes`` installs each and runs these tests."""
