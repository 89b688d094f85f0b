"""One line of migrations, 0001 first. tables.py tells how to add the next one."""
