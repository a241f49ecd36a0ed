"""What makes embedded bases and experts; nothing at run time needs it."""
