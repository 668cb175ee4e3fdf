-- Keeps a malformed queue element aside for reading.  ARGV: queue, reason, the element's beginning
redis.call('LPUSH', 'launch:refused', cjson.encode({at = int(now_us()), queue = ARGV[1], reason = ARGV[2], item = ARGV[3]}))
redis.call('LTRIM', 'launch:refused', 0, 999)
return redis.call('HINCRBY', 'launch:counters', 'refused_items', 1)
