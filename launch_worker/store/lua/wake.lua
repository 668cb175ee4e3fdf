-- Dispatches runs that were parked for a place in a group and have one now.  ARGV: group, limit
-- Returns the number of runs that were dispatched or moved; call again while that is the limit.
local group, limit = unpack(ARGV)
return wake(group, now_us(), at_most(limit, MOST_AT_ONCE))
