"""What happened to a server, why, and what to change: read from its log.

`farspan.doctor.log_reader.LogReader` turns bytes into events, `farspan.doctor.diagnose.Doctor` turns
events into a report.
"""
