-- Lets runs go that were parked for a place in a group and have one now.  ARGV: group, limit
-- Returns how many it let go or moved; call it again while that is the limit.
local group, limit = unpack(ARGV)
return wake(group, now_us(), tonumber(limit))
