"""What the user asks for, resolved into one typed configuration."""
