"""What a method is handed and returns: experts, stream, merged model, and the registry."""
