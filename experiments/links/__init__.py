"""Links: what they were asked to be, held against what they are, by frames sent through each of them."""
