-- Marks an upload, all of whose chunks have been written, as complete, and keeps it for keep_us.
-- ARGV: sha256, number of chunks, bytes in all, keep_us.  Refuses one with a chunk missing.  Returns 1 or 0.
local sha256, chunks, size, keep_us = unpack(ARGV)
chunks, size, keep_us = tonumber(chunks), tonumber(size), tonumber(keep_us)
local found = 0
if chunks > MOST_CHUNKS then return 0 end
for number = 0, chunks - 1 do found = found + redis.call('STRLEN', upload_key(sha256, number)) end
if chunks == 0 or found ~= size then return 0 end
keep_upload(sha256, chunks, keep_us)
return 1
