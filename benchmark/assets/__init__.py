"""What makes the embedded data, bases and experts again. Nothing at run time needs it."""
