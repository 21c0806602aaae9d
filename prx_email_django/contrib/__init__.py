"""Optional integrations.  Each module imports the package that it is named for; the app itself imports none of them."""
