-- Empty an owned inbox whose lease is held, and put a flush marker into it for the owner.
-- KEYS  1 lease  2 stream
-- ARGV  1 generation  2 clock offset in ms
-- Returns how many direct messages were dropped, or -1 if there is no lease.
-- The stream is trimmed, never deleted: a reader that resumes would not see the first entry of a new stream.
if redis.call('HEXISTS', KEYS[1], 'g') == 0 then return -1 end
local count = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do
  if string.sub(entry[2][2], 1, 1) == 'm' then count = count + 1 end
end
local left = redis.call('PTTL', KEYS[1])
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do -- the key stays: see pop.lua
  if field ~= 'g' then redis.call('HDEL', KEYS[1], field) end
end
redis.call('HSET', KEYS[1], 'g', ARGV[1], 'b', 0)
redis.call('PEXPIRE', KEYS[1], left)
redis.call('XTRIM', KEYS[2], 'MAXLEN', 0)
redis.call('XADD', KEYS[2], '*', ARGV[2], 'f' .. ARGV[1])
redis.call('PEXPIRE', KEYS[2], left)
return count
