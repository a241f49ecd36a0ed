"""What a plan will cost: memory, disk and time, before anything starts; a rehearsal at true size."""
