"""What gives pictures their scores."""
