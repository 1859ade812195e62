-- Put a frame into an owned inbox whose lease is held.
-- KEYS  1 lease  2 stream
-- ARGV  1 frame  2 clock offset in ms  3 entries that the inbox may hold, or -1 for a marker: no limit
-- Returns 1, 0 if there is no room, or -1 if there is no lease.
if redis.call('HEXISTS', KEYS[1], 'g') == 0 then return -1 end
if tonumber(ARGV[3]) >= 0 and redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[3]) then return 0 end
if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', ARGV[2], ARGV[1]) then
  redis.call('XADD', KEYS[2], '*', ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[1]))
end
return 1
