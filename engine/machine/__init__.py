"""What the machine offers: compiled code, devices, memory, durable files, and marks for profilers."""
