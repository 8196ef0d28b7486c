"""What `unnoticed doctor` tries: capabilities of the kernel and the machine, and the stalls of the machine."""
