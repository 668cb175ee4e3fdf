-- A worker that ends cleanly takes its name off the lists at once; one that stays (1) is listed as no consumer any more.
-- What was given to it alone goes back into line.
-- ARGV: owner, stays, queue…
local owner, stays = unpack(ARGV, 1, 2)
local FIRST_QUEUE = 3
redis.call('DEL', 'launch:free:' .. owner)
for index = FIRST_QUEUE, #ARGV do redis.call('ZREM', 'launch:consumers:' .. ARGV[index], owner) end
relieve(owner, now_us(), 1000)
-- One that stays may still be given what is on its way: it is relieved again when it goes.
if stays ~= '1' then
  redis.call('DEL', 'launch:worker:' .. owner)
  redis.call('ZREM', 'launch:workers', owner)
end
return 1
