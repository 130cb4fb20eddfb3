"""What the doctor looks for: functions of a case to a finding or nothing, by where they look."""
