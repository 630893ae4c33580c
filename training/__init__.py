"""What trains MER: data, losses, loops, metrics. Never imported by the code that travels to the Hub."""
