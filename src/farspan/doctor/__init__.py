"""What happened to a server, why, and what to change: read from its log.

`farspan.doctor.events.LogReader` turns bytes into events, `farspan.doctor.diagnose.Doctor` turns events into a report.
"""
