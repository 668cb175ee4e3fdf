-- Takes a worker that ends cleanly off the registers at once. A worker that stays (1) is no longer listed as a
-- consumer. Runs that were given to this worker alone go back into line.
-- ARGV: owner, stays, queue…
local owner, stays = unpack(ARGV, 1, 2)
local FIRST_QUEUE = 3
redis.call('DEL', 'launch:free:' .. owner)
for index = FIRST_QUEUE, #ARGV do redis.call('ZREM', 'launch:consumers:' .. ARGV[index], owner) end
local now = now_us()
relieve(owner, now, 1000)
-- A worker that stays may still be given a run by a call that is on its way: it says goodbye again at its end.
if stays ~= '1' then
  redis.call('DEL', 'launch:worker:' .. owner)
  if redis.call('ZREM', 'launch:workers', owner) == 1 then add_act('worker', owner, 'left', '', now) end
end
return 1
