# Any program can be a processor: one line in, one line out, flushed. An empty line drops the event.
BEGIN { FS = "," }
$14 + 0 >= 250 { print toupper($2) " at " $14 " knots: " $9; fflush(); next }
{ print ""; fflush() }
