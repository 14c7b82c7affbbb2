"""Scorers fitted to recorded answers: prompt routers, cascades, the encoder router."""
