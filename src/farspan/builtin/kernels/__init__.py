"""What a layer does between its matrix products: with torch anywhere, with Triton where there is a GPU for it."""
