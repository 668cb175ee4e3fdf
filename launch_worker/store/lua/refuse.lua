-- Keeps a malformed queue element aside for reading.  ARGV: queue, reason, the element's beginning
keep_aside(unpack(ARGV))
return redis.call('HINCRBY', 'launch:counters', 'refused_items', 1)
