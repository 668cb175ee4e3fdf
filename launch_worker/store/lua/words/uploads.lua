-- Uploads: folders of code that producers send in chunks.

-- Of one upload. A mark with a larger number is none of ours.
local MOST_CHUNKS = 4096

-- Chunks first: the mark that it is whole must not outlive one of them.
local function keep_upload(sha256, chunks, keep_us)
  local keep_ms = math.max(1, math.floor(keep_us / 1000))
  for number = 0, chunks - 1 do redis.call('PEXPIRE', upload_key(sha256, number), int(keep_ms)) end
  redis.call('SET', upload_key(sha256), int(chunks), 'PX', int(keep_ms))
end
