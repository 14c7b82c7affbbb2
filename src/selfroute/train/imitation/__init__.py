"""Small models from nothing, by imitation of written searches."""
