from __future__ import annotations
import asyncio, contextlib, random, time, sys
import pytest
from tests.support.scenarios_delivery import number, send_patiently
from tests.support.systems import run

@pytest.mark.parametrize("redis_system", ["three-databases","three-servers"], indirect=True)
@pytest.mark.parametrize("k", range(4))
def test_x(redis_system, k):
    async def body():
        seen=[]; opened=0
        async def serve(dice):
            nonlocal opened
            while len(seen) < 600:
                async with redis_system.layer() as layer:
                    opened+=1
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            for _ in range(dice.randrange(1, 40)):
                                seen.append(number(await layer.receive("jobs")))
        began=time.monotonic(); trace=[]
        async def watch():
            while True:
                await asyncio.sleep(1)
                st=await sender.statistics("jobs")
                trace.append((round(time.monotonic()-began,1),len(seen),opened,st.sent,st.pending))
        async with redis_system.layer() as sender:
            w=asyncio.create_task(watch())
            serving=[asyncio.create_task(serve(random.Random(random.random()))) for _ in range(4)]
            async def feed():
                for n in range(600): await send_patiently(sender,"jobs",{"n":n})
            try:
                await asyncio.wait_for(asyncio.gather(feed(),*serving), 40)
            finally:
                w.cancel(); print(trace, sorted(set(range(600))-set(seen))[:5], file=sys.stderr)
    run(body())
