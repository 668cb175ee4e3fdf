-- Keeps a complete upload for keep_us from now on.  ARGV: sha256, keep_us.  Returns its number of chunks; 0 for no
-- upload.
local sha256, keep_us = unpack(ARGV)
local chunks = tonumber(redis.call('GET', upload_key(sha256)))
if not chunks or chunks > MOST_CHUNKS then return 0 end
for number = 0, chunks - 1 do
  if redis.call('EXISTS', upload_key(sha256, number)) == 0 then
    redis.call('DEL', upload_key(sha256))
    return 0
  end
end
keep_upload(sha256, chunks, tonumber(keep_us))
return chunks
