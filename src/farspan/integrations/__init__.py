"""What farspan adds to programs of others, beside them and unmodified."""
