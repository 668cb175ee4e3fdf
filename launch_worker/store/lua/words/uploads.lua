-- Uploads: folders of code that producers send in chunks.

-- The largest number of chunks of one upload. A client of this system writes no larger number.
local MOST_CHUNKS = 4096

-- Sets the time for which an upload is kept. The chunks come first: the mark of completeness must not outlive any of
-- them.
local function keep_upload(sha256, chunks, keep_us)
  local keep_ms = math.max(1, math.floor(keep_us / 1000))
  for number = 0, chunks - 1 do redis.call('PEXPIRE', upload_key(sha256, number), int(keep_ms)) end
  redis.call('SET', upload_key(sha256), int(chunks), 'PX', int(keep_ms))
end
