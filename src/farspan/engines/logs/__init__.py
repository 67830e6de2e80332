"""What reading an engine's log needs, whichever engine it is: events, the state they add up to, rules and findings.

Each engine's package says what its lines mean and what its failures look like, in these words. `farspan.diagnosis`
reads logs with them.
"""
