"""Single-line faults that the tests must notice: the table, and a script that tries them."""
