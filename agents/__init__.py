"""Migration: guest RAM, page streaming, TCP state, the cutover and its announcement, and the guest itself."""
