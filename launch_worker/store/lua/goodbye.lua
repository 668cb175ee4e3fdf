-- A worker that ends cleanly takes its name off the lists at once; one that stays (1) is listed as no consumer any more.
-- ARGV: owner, stays, queue…
local owner, stays = ARGV[1], ARGV[2]
if stays ~= '1' then
  redis.call('DEL', 'launch:worker:' .. owner)
  redis.call('ZREM', 'launch:workers', owner)
end
for index = 3, #ARGV do redis.call('ZREM', 'launch:consumers:' .. ARGV[index], owner) end
return 1
