"""What a completion may hold, at a price: one file per constraint, and the controller that moves a price."""
