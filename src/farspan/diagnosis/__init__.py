"""What happened to a server, why, and what to change: read from its log.

`farspan.diagnosis.log_reader.LogReader` turns bytes into events, `farspan.diagnosis.diagnose.Doctor` turns
events into a report.
"""
