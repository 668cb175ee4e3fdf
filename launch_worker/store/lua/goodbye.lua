-- A worker that ends cleanly takes its name off the lists at once.  ARGV: owner, queue…
redis.call('DEL', 'launch:worker:' .. ARGV[1])
redis.call('ZREM', 'launch:workers', ARGV[1])
for index = 2, #ARGV do redis.call('ZREM', 'launch:consumers:' .. ARGV[index], ARGV[1]) end
return 1
