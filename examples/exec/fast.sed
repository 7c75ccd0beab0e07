# Any program can be a processor: one line in, one line out, neither kept back in a buffer (`sed -u`). An empty answer drops the event.
# Keeps strikes at 250 knots and more: aircraft (column 2), species (9) and speed (14).
s/^[^,]*,([^,]*),([^,]*,){6}([^,]*),([^,]*,){4}(2[5-9][0-9]|[3-9][0-9]{2}|[0-9]{4,})$/\U\1\E at \5 knots: \3/
t
s/.*//
