"""The subcommands of the console command `trainer`, one module each."""
