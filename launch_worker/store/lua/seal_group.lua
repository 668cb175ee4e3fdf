-- Notes that a submitter adds no more runs to a group, of which it has not made as many as it announced.
-- ARGV: group, as (whole: runs that were there before stand for the missing ones; cut: it gave up, and the missing ones
--   count as runs that never ran)
-- A group that has all its runs, or was sealed before, is left as it is.  Returns 1.
local group, as = unpack(ARGV)
local now = now_us()
WAITING.seal(group, as, now)
WAITING.settle(now, 100)
return 1
