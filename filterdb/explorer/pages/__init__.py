"""The pages, one in a file: each is a function of the desk and a request."""
