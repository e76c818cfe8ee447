"""What runs the models of one repository: in this process, or on a server."""
