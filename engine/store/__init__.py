"""What a model knows: its tables of rows, catalogue, histories and state, and what leaves them."""
