"""Where a plan's jobs run beside this process: a process a device, a Ray cluster."""
