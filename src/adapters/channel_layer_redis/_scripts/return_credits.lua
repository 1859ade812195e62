-- Return credits of an owned inbox.
-- KEYS  1 lease
-- ARGV  1 generation  2 serial  3... channel, credits
-- Returns 1, or 0 if the generation is over or the serial is known.
local lease = redis.call('HMGET', KEYS[1], 'g', 'b')
if lease[1] ~= ARGV[1] or tonumber(ARGV[2]) <= tonumber(lease[2]) then return 0 end
redis.call('HSET', KEYS[1], 'b', ARGV[2])
for place = 3, #ARGV, 2 do
  local name = 'n' .. ARGV[place]
  local unread = redis.pcall('HINCRBY', KEYS[1], name, -ARGV[place + 1])
  if type(unread) == 'table' then -- refused
    if not string.find(unread.err, 'integer') and not string.find(unread.err, 'overflow') then return unread end
    unread = 0 -- another program's
  end
  if unread <= 0 then redis.call('HDEL', KEYS[1], name) end
end
return 1
