-- Keeps a malformed queue element aside for reading.  ARGV: queue, reason, the element's beginning
local queue, reason, beginning = unpack(ARGV)
keep_aside(queue, reason, beginning)
return redis.call('HINCRBY', 'launch:counters', 'refused_items', 1)
