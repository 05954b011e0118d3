"""Models by name: what a folder holds, how the hub is asked, when memory is full. No torch."""
