"""One numerical test for each labelled equation."""
