"""The pages, one in each file. Each is a function of the desk and a request."""
