-- Put a frame into an owned inbox whose lease is held.
-- KEYS  1 lease  2 stream
-- ARGV  1 frame  2 clock offset in ms  3 entries that the inbox may hold, or -1 for a marker: no limit
-- Returns 1, 0 if there is no room, or -1 if there is no lease. If the server has evicted just that, the owner reads a
-- frame that says so.
if redis.call('HEXISTS', KEYS[1], 'g') == 0 then
  if redis.call('EXISTS', KEYS[2]) == 1 then
    local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
    if not last or last[2][2] ~= 'l' then redis.call('XADD', KEYS[2], '*', ARGV[2], 'l') end
  end
  return -1
end
if tonumber(ARGV[3]) >= 0 and redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[3]) then return 0 end
if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', ARGV[2], ARGV[1]) then
  redis.call('XADD', KEYS[2], '*', ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[1]))
end
return 1
