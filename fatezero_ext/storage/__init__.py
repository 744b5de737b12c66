"""Storage: where recorded attention is kept between an inversion and its edits."""
